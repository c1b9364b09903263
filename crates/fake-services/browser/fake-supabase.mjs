// The parts of a Supabase project that a page of ticket updates meets, in memory: users and their sessions
// (Auth), the table of tickets behind a row policy (PostgREST), and the messages that pg_civic leaves in
// realtime.messages. fake-realtime.mjs delivers these.

const encode = (value) => btoa(JSON.stringify(value)).replace(/\+/g, '-').replace(/\//g, '_').replace(/=/g, '')
const decode = (text) => JSON.parse(atob(text.replace(/-/g, '+').replace(/_/g, '/')))
const SIGNATURE = 'c2lnbmVk'

export const TENANT = '00000000-0000-0000-0000-000000000001'
export const OTHER_TENANT = '00000000-0000-0000-0000-000000000002'

const seconds = () => Math.floor(Date.now() / 1000)

/** The claims of a token, or why it is refused, in Realtime's words. */
export function readToken(token) {
  const [, claims, signature] = String(token).split('.')
  if (signature !== SIGNATURE) return { error: 'MalformedJWT: The token provided is not a valid JWT' }
  const parsed = decode(claims)
  const late = seconds() - parsed.exp
  if (late >= 0) return { error: `InvalidJWTToken: Token has expired ${late} seconds ago`, expired: `Token has expired ${late} seconds ago` }
  return { claims: parsed }
}

export class FakeSupabase {
  users = new Map()
  tickets = new Map()
  messages = []
  tokenLifetime = 3600
  databaseUp = true
  openTransactions = 0
  latency = 20
  failReads = false
  requests = []
  #refreshTokens = new Map()
  #listeners = []
  #numbers = 0

  constructor() {
    this.anonKey = this.#token({ role: 'anon' }, 10 * 365 * 86400)
    this.addUser('thandi@example.org', 'manager')
    this.addUser('liaison@example.org', 'saps_liaison')
    this.addUser('citizen@example.org', 'citizen')
  }

  addUser(email, role, tenant = TENANT) {
    const id = `a0000000-0000-0000-0000-${String(this.users.size + 1).padStart(12, '0')}`
    this.users.set(email, { id, email, role, tenant })
    return id
  }

  #token(claims, lifetime) {
    const header = { alg: 'HS256', typ: 'JWT' }
    // The number makes each token another one, as the time of issue does.
    return [encode(header), encode({ aud: 'authenticated', exp: seconds() + lifetime, jti: this.#numbers++, ...claims }), SIGNATURE].join('.')
  }

  #session(user) {
    const refresh = `refresh-${this.#numbers++}`
    this.#refreshTokens.set(refresh, user)
    const claims = { sub: user.id, role: 'authenticated', email: user.email, app_metadata: { tenant_id: user.tenant, role: user.role } }
    return {
      access_token: this.#token(claims, this.tokenLifetime),
      token_type: 'bearer',
      expires_in: this.tokenLifetime,
      expires_at: seconds() + this.tokenLifetime,
      refresh_token: refresh,
      user: this.#profile(user),
    }
  }

  #profile = (user) => ({ id: user.id, aud: 'authenticated', role: 'authenticated', email: user.email, app_metadata: {}, user_metadata: {} })

  /** The sessions end: nobody can renew a token. */
  revokeSessions() {
    this.#refreshTokens.clear()
  }

  // PostgreSQL: tickets, and what civic.notify_ticket_update() publishes of each change.

  onCommit(listener) {
    this.#listeners.push(listener)
  }

  /** One transaction. Each change is [old row or null, new row or null]. */
  commit(...changes) {
    if (!this.databaseUp) throw new Error('the database is down')
    const messages = []
    for (const [before, after] of changes) {
      if (before) this.tickets.delete(before.id)
      if (after) this.tickets.set(after.id, after)
      messages.push(...messagesOf(before, after))
    }
    const inserted_at = Date.now()
    const stored = messages.map((message) => ({ id: `m-${this.#numbers++}`, inserted_at, ...message }))
    for (const message of stored) message.payload = { ...message.payload, id: message.id }
    this.messages.push(...stored)
    for (const listener of this.#listeners) listener(stored, changes)
    return stored
  }

  insert(columns = {}) {
    const number = this.#numbers++
    const row = {
      id: `b0000000-0000-0000-0000-${String(number).padStart(12, '0')}`,
      tenant_id: TENANT,
      tracking_number: `TKT-20260302-${String(number).padStart(6, '0')}`,
      category: 'water',
      status: 'open',
      ward_id: 'Ward 5',
      is_sensitive: false,
      user_id: null,
      description: `burst pipe ${number}`,
      created_at: new Date().toISOString(),
      updated_at: null,
      ...columns,
    }
    this.commit([null, row])
    return row
  }

  update(id, columns) {
    const before = this.tickets.get(id)
    const after = { ...before, updated_at: new Date().toISOString(), ...columns }
    this.commit([before, after])
    return after
  }

  delete(id) {
    this.commit([this.tickets.get(id), null])
  }

  /** civic.publish() */
  publish(payload, { tenant = TENANT } = {}) {
    const message = { id: `m-${this.#numbers++}`, inserted_at: Date.now(), topic: `ticket_updates:${tenant}`, event: payload.type }
    message.payload = { ...payload, id: message.id }
    this.messages.push(message)
    for (const listener of this.#listeners) listener([message], [])
  }

  /** What the row policy on the tickets shows to these claims. */
  visible(claims) {
    const { tenant_id, role } = claims.app_metadata ?? {}
    const sees = (row) => {
      if (row.tenant_id !== tenant_id) return false
      if (role === 'saps_liaison' || role === 'admin') return true
      if (row.is_sensitive) return false
      return role === 'manager' || role === 'ward_councillor' || row.user_id === claims.sub
    }
    return [...this.tickets.values()].filter(sees)
  }

  /** The policies on realtime.messages. */
  canJoin(claims, topic) {
    const { tenant_id, role } = claims.app_metadata ?? {}
    if (claims.role !== 'authenticated' || !tenant_id) return false
    if (topic === `ticket_updates:${tenant_id}`) return ['manager', 'admin', 'ward_councillor', 'saps_liaison'].includes(role)
    if (topic === `ticket_updates:${tenant_id}:sensitive`) return ['admin', 'saps_liaison'].includes(role)
    if (topic === 'my-tickets') return true // the policy that browsers.md shows
    return topic === `ticket_owner:${claims.sub}`
  }

  // The gateway, as the `fetch` of supabase-js.

  fetch = async (input, options = {}) => {
    const url = new URL(input)
    const request = { method: options.method ?? 'GET', path: url.pathname, query: url.searchParams, options }
    this.requests.push(request)
    const answer = this.#answer(request)
    await new Promise((done, failed) => {
      setTimeout(done, this.latency)
      options.signal?.addEventListener('abort', () => failed(options.signal.reason))
    })
    if (answer === undefined) throw new TypeError('fetch failed')
    return new Response(JSON.stringify(answer.body), { status: answer.status ?? 200, headers: { 'content-type': 'application/json' } })
  }

  #answer({ path, query, options }) {
    if (this.failReads === 'network') return undefined
    if (!this.databaseUp || this.failReads) return { status: 503, body: { message: 'Database client error. Retrying the connection.' } }
    const headers = new Headers(options.headers)
    const { claims } = readToken((headers.get('authorization') ?? '').replace('Bearer ', ''))
    if (path === '/auth/v1/token') return this.#signIn(query.get('grant_type'), JSON.parse(options.body))
    if (path === '/auth/v1/user') {
      const user = [...this.users.values()].find(({ id }) => id === claims?.sub)
      return user ? { body: this.#profile(user) } : { status: 403, body: { code: 'bad_jwt' } }
    }
    if (path === '/rest/v1/tickets') {
      if (!claims) return { status: 401, body: { code: 'PGRST303', message: 'JWT expired' } }
      const columns = (query.get('select') ?? '*').split(',')
      const pick = (row) => (columns[0] === '*' ? row : Object.fromEntries(columns.map((column) => [column, row[column]])))
      return { body: queried(this.visible(claims), query).map(pick) }
    }
    return { status: 404, body: {} }
  }

  #signIn(grant, body) {
    const user = grant === 'password' ? this.users.get(body.email) : this.#refreshTokens.get(body.refresh_token)
    if (user) {
      this.#refreshTokens.delete(body.refresh_token)
      return { body: this.#session(user) }
    }
    return { status: 400, body: { code: grant === 'password' ? 'invalid_credentials' : 'refresh_token_not_found', message: 'refused' } }
  }
}

/** What the examples of the documentation ask for: `neq` on a column, and an order. */
function queried(rows, query) {
  let found = rows
  for (const [column, condition] of query) {
    const [operator, value] = condition.split('.')
    if (operator === 'neq') found = found.filter((row) => String(row[column]) !== value)
  }
  const [column, direction] = (query.get('order') ?? '').split('.')
  if (!column) return found
  const sign = direction === 'desc' ? -1 : 1
  return [...found].sort((a, b) => sign * (a[column] < b[column] ? -1 : a[column] > b[column] ? 1 : 0))
}

const DETAILS = ['tracking_number', 'status', 'category', 'ward_id']

/** docs/sql-api.md, "Events", with civic.sensitive_events = 'redacted'. */
function messagesOf(before, after) {
  const messages = []
  const add = (type, row, isSensitive) => {
    const topic = `ticket_updates:${row.tenant_id}`
    const changed = Date.parse(row.updated_at ?? row.created_at) / 1000
    const details = Object.fromEntries(DETAILS.map((column) => [column, row[column] ?? null]))
    const { tracking_number, status, category, ward_id } = details
    const whole = {
      type, ticket_id: row.id, tracking_number, status, category, municipality_id: row.tenant_id, ward_id,
      is_sensitive: isSensitive, updated_at: changed,
    }
    if (isSensitive) {
      messages.push({ topic: `${topic}:sensitive`, event: type, payload: whole })
      const nothing = Object.fromEntries(DETAILS.map((column) => [column, null]))
      messages.push({ topic, event: type, payload: { ...whole, ...nothing } })
      return
    }
    messages.push({ topic, event: type, payload: whole })
    if (row.user_id) messages.push({ topic: `ticket_owner:${row.user_id}`, event: type, payload: whole })
  }
  if (!after) add('DELETE', before, before.is_sensitive)
  else {
    if (before && before.tenant_id !== after.tenant_id) add('DELETE', before, before.is_sensitive || after.is_sensitive)
    const isSensitive = Boolean(after.is_sensitive || before?.is_sensitive)
    add(before ? 'UPDATE' : 'INSERT', after, isSensitive)
    if (before?.user_id && before.user_id !== after.user_id && !isSensitive) {
      messages.push({ topic: `ticket_owner:${before.user_id}`, event: 'DELETE', payload: { type: 'DELETE', ticket_id: before.id } })
    }
  }
  return messages
}
