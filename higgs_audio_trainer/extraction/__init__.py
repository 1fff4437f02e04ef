"""From tensors to events. Knows no model: text and audio arrive as `Stream`s."""
