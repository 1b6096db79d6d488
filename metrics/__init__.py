"""How good, how varied and how faithful synthetic rows are: plain numbers from arrays, with no Ray."""
