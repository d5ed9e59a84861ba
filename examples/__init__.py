"""Programs that use optax_gc."""
