"""The web application: data sets, searches, live pages. Of the engine it knows the plain floor and the process."""
