"""All reasoners side by side: trained alike, measured alike, in one resumable folder."""
