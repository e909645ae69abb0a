"""Speed and memory against the bars of the design, each with its workload. They are no tests: nothing fails on a slow day."""
