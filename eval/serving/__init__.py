"""A real server: started, waited for, asked through the OpenAI protocol, compared, stopped (docs/serving.md)."""
