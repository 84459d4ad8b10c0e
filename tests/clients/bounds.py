"""Requests that break one rule of a service's model as botocore has it: the table of the scripts beside this one."""

from botocore.exceptions import ClientError
from botocore.loaders import Loader
from botocore.serialize import JSONSerializer

ROLE = "arn:aws:iam::123456789012:role/agent"

# Where a shape has a pattern that the plainest value does not match.
EXAMPLES = {
    "S3LocationBucketString": "code", "RoleArn": ROLE, "SecurityGroupId": "sg-01234567", "SubnetId": "subnet-01234567",
    "DiscoveryUrl": "https://id.example/.well-known/openid-configuration", "VpcIdentifier": "vpc-01234567",
    "ResourceConfigurationIdentifier": "rcfg-0123456789abcdefg", "SecurityGroupIdentifier": "sg-01234567",
    "CertificateS3Uri": "s3://a/b", "CertificateBucketOwnerAccountId": "1" * 12,
    "CertificateSecretArn": "arn:aws:secretsmanager:us-west-2:123456789012:secret:a",
    "BedrockAgentcoreResourceArn": "a" * 20, "MountPath": "/mnt/data", "ServerPath": "/a", "LifecycleHookPath": "/warm",
    "RuntimeContainerUri": "public.ecr.aws/a/b:1",
    "S3FilesAccessPointArn": "arn:aws:s3files:us-west-2:123456789012:file-system/fs-" + "0" * 17 + "/access-point/fsap-" + "0" * 17,
    "EfsAccessPointArn": "arn:aws:elasticfilesystem:us-west-2:123456789012:access-point/fsap-01234567",
    "S3BucketMountConfigurationS3BucketOwnerString": "1" * 12, "S3BucketMountConfigurationS3BucketRegionString": "us-west-2",
    "CapacityProviderArn": "arn:aws:bedrock-agentcore:us-west-2:123456789012:capacity-provider/a-0123456789",
}  # fmt: skip


def send_unknown_members():
    """botocore drops what its model does not know; from here on it goes on the wire."""
    known_only = JSONSerializer._serialize_type_structure

    def everything(self, serialized, value, shape, key):
        known_only(self, serialized, {k: v for k, v in value.items() if k in shape.members}, shape, key)
        target = serialized[key] if key is not None else serialized
        target.update({k: v for k, v in value.items() if k not in shape.members})

    JSONSerializer._serialize_type_structure = everything


def snake(operation):
    """An operation's name as a method: `GetABTest` ▸ `get_ab_test`."""
    from botocore import xform_name

    return xform_name(operation)


class Bounds:
    def __init__(self, service):
        self.model = Loader().load_service_model(service, "service-2")
        self.shapes = self.model["shapes"]
        self.operations = self.model["operations"]

    def input(self, operation):
        named = self.operations[operation].get("input")
        return self.shapes[named["shape"]] if named else {"type": "structure", "members": {}}

    def example(self, shape, depth=0):
        """A sound value with as little in it as may be."""
        known = next((value for name, value in EXAMPLES.items() if self.shapes.get(name) is shape), None)
        if known is not None:
            return known
        kind = shape["type"]
        inner = lambda named: self.example(self.shapes[named["shape"]], depth + 1)
        if kind == "string":
            return shape["enum"][0] if "enum" in shape else "a" * max(shape.get("min") or 1, 1)
        if kind in ("integer", "long", "float", "double"):
            return shape.get("min", 1)
        if kind == "boolean":
            return True
        if kind == "timestamp":
            return 0
        if kind == "blob":
            return b""
        if kind == "list":
            return [] if depth > 8 else [inner(shape["member"])] * max(shape.get("min") or 1, 1)
        if kind == "map":
            return {"k": inner(shape["value"])}
        if shape.get("document") or depth > 8:
            return {}
        if shape.get("union"):
            first = next(iter(shape["members"]))
            return {first: inner(shape["members"][first])}
        return {name: inner(shape["members"][name]) for name in shape.get("required", [])}

    def outside(self, shape, where):
        """Values that break one rule of the shape, and the field that is to be named."""
        kind, shapes = shape["type"], self.shapes
        if kind == "string":
            if "enum" in shape:
                yield "NO_SUCH_WORD", where
            if shape.get("max"):
                yield "a" * (shape["max"] + 1), where
            elif "pattern" in shape:
                yield "a" * 5000, where
            if shape.get("min"):
                for length in {0, shape["min"] - 1}:
                    yield "a" * length, where
            if "pattern" in shape:
                yield "\u00fc \u00fc\u2028", where
        elif kind == "blob":
            if shape.get("max"):
                yield bytes(shape["max"] + 1), where
        elif kind == "integer":
            if "min" in shape:
                yield shape["min"] - 1, where
            if "max" in shape:
                yield shape["max"] + 1, where
            yield 1 << 40, where
        elif kind == "list":
            member = shapes[shape["member"]["shape"]]
            if "max" in shape:
                yield [self.example(member)] * (shape["max"] + 1), where
            if shape.get("min"):
                yield [], where
            for value, field in self.outside(member, f"{where}[0]"):
                yield [value], field
        elif kind == "map":
            of_key, of_value = shapes[shape["key"]["shape"]], shapes[shape["value"]["shape"]]
            if "max" in shape:
                yield {f"k{n}": "v" for n in range(shape["max"] + 1)}, where
            for value, _ in self.outside(of_key, where):
                yield {value: "v"}, f"{where}.{value[:64]}"
            for value, _ in self.outside(of_value, where):
                yield {"k": value}, f"{where}.k"
        elif kind == "structure":
            example = self.example(shape)
            if shape.get("union"):
                yield {}, where
                if len(shape["members"]) > 1:
                    names = list(shape["members"])[:2]
                    yield {n: self.example(shapes[shape["members"][n]["shape"]]) for n in names}, where
            for name, member in shape["members"].items():
                for value, field in self.outside(shapes[member["shape"]], f"{where}.{name}"):
                    whole = {} if shape.get("union") else example
                    yield {**whole, name: value}, field
            for name in shape.get("required", []):
                yield {k: v for k, v in example.items() if k != name}, f"{where}.{name}"
            yield {**example, "noSuchMember": 1}, f"{where}.noSuchMember"

    def broken(self, operation, parameters, more=()):
        """Parameters that break one rule of the operation, and the field that is to be named. `more`: of rules that are not in
        the model, as (member, value, field)."""
        shape = self.input(operation)
        for member, described in shape["members"].items():
            place = described.get("location")
            for value, field in self.outside(self.shapes[described["shape"]], member):
                # A path's label cannot be empty, a list in a query cannot say so, and a header has no such letters.
                if (place == "uri" and value == "") or (place == "querystring" and value == []):
                    continue
                if place == "header" and not value.isascii():
                    continue
                yield {**parameters, member: value}, field
        for member in shape.get("required", []):
            # A path has its labels; a body that is bytes may have none.
            described = shape["members"][member]
            of = self.shapes[described["shape"]]
            if described.get("location") == "uri" or of["type"] == "blob":
                continue
            # A member that is the whole body is an empty object on the wire if it is left out.
            missing = f"{member}.{of['required'][0]}" if shape.get("payload") == member else member
            yield {k: v for k, v in parameters.items() if k != member}, missing
        for member, value, field in more:
            yield {**parameters, member: value}, field


def hold(client, bounds, sound, more=lambda operation: (), status=lambda parameters, field: 400):
    """Every rule of these operations (name ▸ sound parameters), by a client without validation of its own: whoever breaks one
    gets a ValidationException that names the field. How many were tried."""
    tried = 0
    for operation, parameters in sound.items():
        call = getattr(client, snake(operation))
        for request, field in bounds.broken(operation, parameters, more(operation)):
            shown = {name: str(value)[:300] for name, value in request.items()}
            try:
                call(**request)
            except ClientError as error:
                said = error.response
                meta = said["ResponseMetadata"]
                told = (said["Error"]["Code"], meta["HTTPStatusCode"], said.get("reason"))
                expected = ("ValidationException", status(request, field), "FieldValidationFailed")
                assert told == expected, (operation, field, shown, said)
                found = [fault["name"] for fault in said.get("fieldList", [])]
                assert field in found, (operation, field, shown, said)
                assert meta["RetryAttempts"] == 0, (operation, field, said)
            else:
                raise AssertionError(f"{operation} takes {field}: {shown}")
            tried += 1
    return tried
