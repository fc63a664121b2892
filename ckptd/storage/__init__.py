"""Where objects live. The only room that opens files or buckets; `base` says what every store promises."""
