from fakes import app_of, parts

from lifelong.serve.schema import Schema


def schemas_of(schema, **settings):
    document = app_of(parts(schema=schema, **settings)).openapi()
    return document, document["components"]["schemas"]


def test_rows_and_labels_are_those_of_the_service():
    document, schemas = schemas_of(Schema((2, 3), classes=5, low=0.0), batch_rows=7, most_events=11)
    flat, nested = schemas["Example"]["properties"]["x"]["anyOf"]
    assert (flat["minItems"], flat["maxItems"], flat["items"]["minimum"]) == (6, 6, 0.0)
    assert (nested["minItems"], nested["items"]["minItems"]) == (2, 3)
    assert schemas["Label"]["properties"]["y"] == {"type": "integer", "minimum": 0, "maximum": 4}
    rows = schemas["Predict"]["properties"]["rows"]
    assert (rows["minItems"], rows["maxItems"]) == (1, 7)
    assert schemas["Predict"]["oneOf"] == [{"required": ["x"]}, {"required": ["rows"]}]
    body = document["paths"]["/labels"]["post"]["requestBody"]["content"]["application/json"]
    [several] = [one for one in body["schema"]["anyOf"] if one.get("type") == "array"]
    assert (several["minItems"], several["maxItems"]) == (1, 11)


def test_labels_without_classes_are_numbers():
    _, schemas = schemas_of(Schema((2,)))
    assert schemas["Label"]["properties"]["y"]["type"] == "number"


def test_what_is_named_in_the_path_is_documented_with_what_it_is_if_there_is_none():
    document = app_of(parts()).openapi()
    operation = document["paths"]["/erase/{id}"]["get"]
    assert [(one["name"], one["in"]) for one in operation["parameters"]] == [("id", "path")]
    assert "404" in operation["responses"]
    bounds = {
        one["name"]: one["schema"] for one in document["paths"]["/audit"]["get"]["parameters"]
    }
    assert bounds["after"]["maximum"] == bounds["before"]["maximum"] == 2**63 - 1
