"""What people see: views turn the events of the core loops into panels and lines."""
