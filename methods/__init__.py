"""Method plugins, one file a method or a family of one-line methods. They import bench.api and torch only."""
