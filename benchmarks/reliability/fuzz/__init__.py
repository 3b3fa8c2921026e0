"""Input that nobody would send on purpose: made from the OpenAPI description, from properties, and from coverage."""
