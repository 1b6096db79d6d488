"""Jobs: work that runs to completion and can be run again safely."""
