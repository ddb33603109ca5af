"""The simulated mountain: sky, telescope, camera, schedule and faults; it writes raw nights and knows the truth."""
