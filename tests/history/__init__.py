"""What clients saw in a run, and the checker that judges it by the log as it stands afterwards."""
