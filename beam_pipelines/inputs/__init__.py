"""What lies in folders, buckets and archives, found by name and matched with its labels."""
