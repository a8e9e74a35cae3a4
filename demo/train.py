"""Train a model that tells irises apart, and save it. The serving Python runs `train.py FILE`."""

import sys

import joblib
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

irises = load_iris()
species = irises.target_names[irises.target]
known, unknown, known_species, unknown_species = train_test_split(
    irises.data, species, test_size=0.2, random_state=0
)
model = LogisticRegression(max_iter=1000).fit(known, known_species)
joblib.dump(model, sys.argv[1])
right = round(model.score(unknown, unknown_species) * len(unknown))
print(f"trained on {len(known)} irises; {right} of {len(unknown)} others are classified correctly")
