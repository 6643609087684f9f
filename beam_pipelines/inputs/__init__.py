"""Files in folders, buckets and archives, found by name and matched with their labels."""
