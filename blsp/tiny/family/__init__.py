"""The comparison of methods: recipes of the family and their rivals on the tiny world."""
