"""Alert packets: history of a position, association with a name, and the packet itself."""
