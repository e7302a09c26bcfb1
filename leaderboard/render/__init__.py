"""Tables, summaries and sentences in every format."""
