"""From tensors to events. The package knows no model: text and audio arrive as `Stream`s."""
