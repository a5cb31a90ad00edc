"""Reports: one self-contained HTML page about a grid or about a model, with JSON, CSV and SVG."""
