"""What `surrogate bench` measures, and the benchmark suites."""
