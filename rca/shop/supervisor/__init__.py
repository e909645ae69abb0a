"""The shop's supervisor: what a cluster would do for the services, in one process on one machine.

It runs pods, probes and restarts them, rolls releases out, carries all traffic between them, serves the part of the Kubernetes
API that collectors read, exports what cAdvisor, kube-state-metrics and node exporter would, and takes orders on a control API.
"""
