"""Messages, made by `tools/protos` from proto/."""
