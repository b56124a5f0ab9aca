"""Reading manifests: CSV, JSONL, spreadsheets and OpenAI's batch lines."""
