"""One module for each section of the benchmarks page."""
