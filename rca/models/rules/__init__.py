"""Simple rankers that any learned one has to beat, behind the same contract. Each module names the paper it follows."""
