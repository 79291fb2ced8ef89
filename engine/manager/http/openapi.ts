// /openapi.json: made of the table of routes, so that it cannot say anything else.
import { z } from 'zod';
import { errorCodes } from '../../errors/error-codes.js';
import { nothing } from './routes.js';
import type { Route } from './routes.js';

type Json = Readonly<Record<string, unknown>>;

export function openApiDocument(routes: readonly Route[], version: string): Json {
  const paths: Record<string, Record<string, Json>> = {};
  for (const route of routes) {
    const path = (paths[`/v1${route.path}`] ??= {});
    path[route.method.toLowerCase()] = operation(route);
  }
  const registry = z.toJSONSchema(z.globalRegistry, {
    uri: (id) => `#/components/schemas/${id}`,
    target: 'openapi-3.0',
  });
  return {
    openapi: '3.0.3',
    info: { title: 'Holdfast', version, description: 'Replicated block volumes. The gRPC API has the same methods.' },
    servers: [{ url: '/' }],
    paths,
    components: {
      schemas: {
        ...withoutIds(registry.schemas),
        Error: {
          type: 'object',
          required: ['error'],
          properties: {
            error: {
              type: 'object',
              required: ['code', 'message'],
              properties: { code: { type: 'string', enum: Object.keys(errorCodes) }, message: { type: 'string' } },
            },
          },
        },
      },
      securitySchemes: { token: { type: 'http', scheme: 'bearer' } },
    },
    security: [{ token: [] }],
  };
}

function operation({ path, summary, role, query, body, answer }: Route): Json {
  return {
    summary,
    description: `Needs the role ${role}.`,
    parameters: [
      ...[...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => ({
        name,
        in: 'path',
        required: true,
        schema: { type: 'string' },
      })),
      ...Object.entries(query ?? {}).map(([name, type]) => ({ name, in: 'query', required: false, schema: { type } })),
    ],
    ...(body === null || body === nothing
      ? {}
      : { requestBody: { content: { 'application/json': { schema: schemaOf(body) } } } }),
    responses: {
      200: { description: 'Done', content: { 'application/json': { schema: schemaOf(answer) } } },
      default: {
        description: 'Failed',
        content: { 'application/json': { schema: { $ref: '#/components/schemas/Error' } } },
      },
    },
  };
}

// Schemas with an id are referred to, all others are written out.
function schemaOf(schema: z.ZodType): Json {
  const id = z.globalRegistry.get(schema)?.id;
  if (id !== undefined) return { $ref: `#/components/schemas/${id}` };
  if (schema instanceof z.ZodArray) return { type: 'array', items: schemaOf(schema.element as z.ZodType) };
  const json = z.toJSONSchema(schema, { target: 'openapi-3.0', reused: 'inline' }) as Record<string, unknown>;
  delete json['$schema'];
  return inlined(json) as Json;
}

// What zod puts into "definitions" of one schema is in the components.
function inlined(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(inlined);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([key]) => key !== 'definitions' && key !== '$defs')
      .map(([key, each]) => [
        key,
        key === '$ref' && typeof each === 'string'
          ? each.replace(/^#\/(definitions|\$defs)\//, '#/components/schemas/')
          : inlined(each),
      ]),
  );
}

function withoutIds(schemas: Readonly<Record<string, unknown>>): Json {
  return Object.fromEntries(
    Object.entries(schemas).map(([name, schema]) => {
      const { $id: _, $schema: __, id: ___, ...rest } = schema as Record<string, unknown>;
      return [name, rest];
    }),
  );
}
