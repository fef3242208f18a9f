"""The tuner: the distinct kernel problems of a graph, each searched and measured on its own. See docs/tuning.md."""
