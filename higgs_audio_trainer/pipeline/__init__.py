"""The way of an event to the sinks: a structlog chain. Loads neither torch nor a sink."""
