"""battd: the loop, its threads, signals, logs. The only place that ties the other parts together."""
