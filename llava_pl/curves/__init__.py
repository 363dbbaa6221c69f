"""Pictures of a run, from its ``metrics.csv`` alone: metrics, panels, then png and page; draw writes both."""
