"""`make removals`: takes each safeguard of the state away, one at a time, and shows which test notices."""
