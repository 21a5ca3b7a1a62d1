"""Images as a loader reads them: in memory, from files, in several views."""
