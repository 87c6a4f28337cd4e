import protobuf from 'protobufjs';

/**
 * What the wire format and the generated code of a proto file are made of, one line an element. A release keeps its promise as
 * long as each of these lines is a line of all later releases. Comments, the order of elements and `deprecated` are not in them.
 */
export function elements(source: string): string[] {
  const { package: name = '', root } = protobuf.parse(source, new protobuf.Root(), { keepCase: true });
  root.resolveAll();
  const file = name === '' ? root : root.lookup(name);
  if (!(file instanceof protobuf.Namespace)) throw new Error(`expected elements in package ${name}, got none`);
  const syntax = /^\s*(?:syntax|edition)\s*=\s*"\w+"/m.exec(source)?.[0].trim() ?? 'no syntax';
  return [syntax, `package ${name}${options(file)}`, ...file.nestedArray.flatMap(ofObject)];
}

function ofObject(object: protobuf.ReflectionObject): string[] {
  if (object instanceof protobuf.Service) return ofService(object);
  if (object instanceof protobuf.Type) return ofMessage(object);
  if (object instanceof protobuf.Enum) return ofEnum(object);
  throw new Error(`expected a service, a message or an enum, got ${object.toString()}`);
}

function ofService(service: protobuf.Service): string[] {
  const name = nameOf(service);
  const methods = service.methodsArray.map((method) => {
    const request = `${method.requestStream ? 'stream ' : ''}${nameOf(method.resolvedRequestType)}`;
    const response = `${method.responseStream ? 'stream ' : ''}${nameOf(method.resolvedResponseType)}`;
    return `rpc ${name}.${method.name}(${request}) returns (${response})${options(method)}`;
  });
  return [`service ${name}${options(service)}`, ...methods];
}

function ofMessage(message: protobuf.Type): string[] {
  const name = nameOf(message);
  const fields = message.fieldsArray.map((field) => {
    const value = field.resolvedType === null ? field.type : nameOf(field.resolvedType);
    const type = field instanceof protobuf.MapField ? `map<${field.keyType}, ${value}>` : value;
    const place = field.partOf === null ? '' : ` in oneof ${field.partOf.name}`;
    return `${field.repeated ? 'repeated ' : ''}${type} ${name}.${field.name} = ${field.id}${place}${options(field)}`;
  });
  const nested = message.nestedArray.flatMap(ofObject);
  return [`message ${name}${options(message)}`, ...fields, ...reserved(name, message.reserved), ...nested];
}

function ofEnum(values: protobuf.Enum): string[] {
  const name = nameOf(values);
  const lines = Object.entries(values.values).map(([value, number]) => `${name}.${value} = ${number}`);
  return [`enum ${name}${options(values)}`, ...lines, ...reserved(name, values.reserved)];
}

/** A number or a name that was freed may still be in somebody's stored messages or code. */
function reserved(name: string, those: (number[] | string)[] | undefined): string[] {
  return (those ?? []).map((one) => `${name} reserves ${typeof one === 'string' ? one : one.join(' to ')}`);
}

function options(object: protobuf.ReflectionObject): string {
  const set = Object.entries(object.options ?? {}).filter(([name]) => name !== 'deprecated');
  return set.length === 0
    ? ''
    : ` [${set
        .map(([name, value]) => `${name} = ${value}`)
        .sort()
        .join(', ')}]`;
}

function nameOf(object: protobuf.ReflectionObject | null): string {
  if (object === null) throw new Error('expected a resolved type, got none');
  return object.fullName.replace(/^\./, '');
}
