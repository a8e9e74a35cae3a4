"""Model servers as processes: started, heard, and never left behind."""
