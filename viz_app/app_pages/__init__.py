"""Pages of the dashboard: each file is one Streamlit page."""
