// An OpenID provider that issues tokens to a client of its own. Told by a JSON file what to be.
import { readFileSync } from 'node:fs'
import { createServer } from 'node:https'

const told = JSON.parse(readFileSync(process.argv[2]))
const { default: Provider } = await import(told.library)

const provider = new Provider(told.issuer, {
  jwks: told.jwks,
  clients: [{ ...told.client, grant_types: ['client_credentials'], redirect_uris: [], response_types: [] }],
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => 'urn:traffic-manager',
      getResourceServerInfo: () => ({
        scope: '',
        audience: told.audience,
        accessTokenTTL: 300,
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: told.algorithm } },
      }),
    },
  },
  extraTokenClaims: () => ({ groups: told.groups }),
})

const pair = { key: readFileSync(told.key_file), cert: readFileSync(told.cert_file) }
createServer(pair, provider.callback()).listen(told.port, told.host)
