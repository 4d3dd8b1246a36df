"""The drawn world that the bundled model `tiny` knows: scenes, their pictures, questions about them."""
