"""What pages and documents draw: charts, service maps and timelines, as values and from them as SVG that loads nothing."""
