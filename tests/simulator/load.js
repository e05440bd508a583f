// @ts-check
/**
 * How much the simulator takes: `node load.js [clients]` logs in so many real clients
 * with made-up creds (1000 if not told), and prints the time and the memory.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'

const COUNT = Number(process.argv[2] ?? 1000)
const IN_FLIGHT = 20

/** @param {string} file */
function start(file) {
  const child = spawn(process.execPath, [new URL(file, import.meta.url).pathname], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  return { child, lines: createInterface({ input: child.stdout }) }
}

/** @param {number | undefined} pid */
const rssMb = pid =>
  Math.round(Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024)

const simulator = start('main.js')
const { ws, control } = JSON.parse((await once(simulator.lines, 'line'))[0])
const before = rssMb(simulator.child.pid)
const clients = start('client.js')
let started = 0
let open = 0

async function next() {
  if (started === COUNT) return
  const index = started++
  const phone = `7900${String(index).padStart(7, '0')}`
  const id = `${phone}:1@s.whatsapp.net`
  await fetch(`${control}/phones/${phone}/adopt-device`, {
    method: 'POST', body: JSON.stringify({ jid: id }),
  })
  const command = { client: phone, do: 'connect', url: ws, creds: { me: { id, name: 'load' } } }
  clients.child.stdin.write(`${JSON.stringify(command)}\n`)
}

const began = Date.now()
const done = Promise.withResolvers()
clients.lines.on('line', line => {
  const { event } = JSON.parse(line)
  if (event !== 'open') return
  if (++open === COUNT) done.resolve(undefined)
  else next()
})
for (let index = 0; index < IN_FLIGHT; index++) await next()
await done.promise

const journal = await (await fetch(`${control}/journal`)).json()
console.log(
  JSON.stringify({
    clients: COUNT,
    seconds: (Date.now() - began) / 1000,
    connections: journal.connections,
    simulatorRssMb: { before, after: rssMb(simulator.child.pid) },
    clientsRssMb: rssMb(clients.child.pid),
  }),
)
clients.child.stdin.end()
simulator.child.stdin.end()
