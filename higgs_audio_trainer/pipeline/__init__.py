"""From a typed event to the sinks, through a structlog chain. Loads neither torch nor a sink."""
