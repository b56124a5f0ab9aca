"""What all routes share of HTTP: bodies, multipart forms, problems, the OpenAPI document."""
