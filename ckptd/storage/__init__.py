"""Where objects are stored. Only this package opens files or buckets; `base` says what every store promises."""
