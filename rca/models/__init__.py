"""Rankers: simple rules, learned baselines and the graph network, all behind contracts.Ranker."""
