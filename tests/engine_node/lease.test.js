// @ts-check
import assert from 'node:assert/strict'
import { once } from 'node:events'
import net from 'node:net'
import { test } from 'node:test'
import { Lease } from '../../whatsapp/engine/node/lease.js'

/** @param {number} ms */
function block(ms) {
  const until = performance.now() + ms
  while (performance.now() < until);
}

/** How far Python's clock is from ours. */
const PYTHON = 1_000_000

test('without a ping it ends', async t => {
  t.mock.method(process.stderr, 'write', () => true)
  await new Promise(end => new Lease(50, { received: 0 }, () => end(undefined)))
})

test('a ping counts from when it was sent, whatever the clocks', () => {
  const lease = new Lease(60_000, { received: 0 }, () => {})
  clearInterval(lease.timer)
  const sent = performance.now() + PYTHON
  lease.renew(sent)
  assert.equal(lease.isOver, false)
  lease.lengthMs = 100
  block(150)
  lease.renew(sent + 1)
  assert.equal(lease.isOver, true, 'it lay in the pipe while we were blocked')
  lease.renew(performance.now() + PYTHON)
  assert.equal(lease.isOver, false)
})

test('what waits in the pipe is read before it is judged', async t => {
  t.mock.method(process.stderr, 'write', () => true)
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = /** @type {net.AddressInfo} */ (server.address())
  const ours = net.connect(port, '127.0.0.1')
  const [theirs] = await once(server, 'connection')
  t.after(() => {
    ours.destroy()
    theirs.destroy()
    server.close()
  })
  const pipe = { received: 0 }
  let ended = false
  const lease = new Lease(200, pipe, () => (ended = true))
  ours.on('data', () => {
    pipe.received++
    lease.renew(performance.now())
  })
  theirs.write('ping')
  block(600)
  // The timer is overdue by now, and the ping unread.
  await once(ours, 'data')
  await new Promise(resolve => setImmediate(() => setImmediate(resolve)))
  clearInterval(lease.timer)
  assert.equal(ended, false)
})
