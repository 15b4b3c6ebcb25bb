"""The index in Weaviate; the only place that imports its library, and only when it is configured."""
