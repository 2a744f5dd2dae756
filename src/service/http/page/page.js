// Owns the behaviour of the page: shows the state, streams a chat, hands out a curl line. Text is only ever text.

const byId = (id) => document.getElementById(id);
const POLL_MS = 5000;
const KEY_NAME = 'xllm-api-key';

const view = {
  model: byId('model'),
  state: byId('state'),
  log: byId('log'),
  empty: byId('empty'),
  message: byId('message'),
  temperature: byId('temperature'),
  send: byId('send'),
  stop: byId('stop'),
  keyForm: byId('key-form'),
  key: byId('key'),
  keyWrong: byId('key-wrong'),
  curl: byId('curl'),
  copied: byId('copied'),
  links: byId('links'),
};

/** The conversation as the API takes it. */
let messages = [];
let modelName = null;
/** Aborts the answer that is coming; null while none is. */
let answering = null;

const authorization = () => {
  const key = sessionStorage.getItem(KEY_NAME);
  return key ? { authorization: `Bearer ${key}` } : {};
};

async function refreshState() {
  let state = 'unreachable';
  try {
    const reply = await fetch('/ready');
    state = (await reply.json()).status;
    if (modelName === null && state === 'ready') await loadModel();
  } catch {
    // The server is away: that is the state to show.
  }
  view.state.dataset.state = state;
  if (view.state.textContent !== state) view.state.textContent = state;
}

async function loadModel() {
  const reply = await fetch('/v1/models', { headers: authorization() });
  if (reply.status === 401) {
    askForKey();
    return;
  }
  const model = (await reply.json()).data?.[0];
  if (!model) return;
  modelName = model.id;
  view.model.textContent = model.max_model_len ? `${model.id} · ${model.max_model_len} tokens of context` : model.id;
  document.title = `${model.id} – xLLM`;
  showCurl();
}

function askForKey() {
  view.keyWrong.hidden = sessionStorage.getItem(KEY_NAME) === null;
  if (!view.keyForm.hidden) return;
  view.keyForm.hidden = false;
  // A link cannot carry a key.
  view.links.hidden = true;
  view.key.focus();
}

function showCurl() {
  const body = { model: modelName ?? 'MODEL', messages: [{ role: 'user', content: 'Hello!' }] };
  const lines = [
    `curl ${location.origin}/v1/chat/completions`,
    `  -H 'Content-Type: application/json'`,
    ...(sessionStorage.getItem(KEY_NAME) ? [`  -H "Authorization: Bearer $XLLM_API_KEY"`] : []),
    `  -d '${JSON.stringify(body).replaceAll("'", String.raw`'\''`)}'`,
  ];
  view.curl.textContent = lines.join(' \\\n');
}

function addArticle(role, text) {
  view.empty.hidden = true;
  const article = document.createElement('article');
  article.className = role;
  const heading = document.createElement('h3');
  heading.textContent = role === 'user' ? 'You' : 'Model';
  const paragraph = document.createElement('p');
  paragraph.className = 'text';
  paragraph.textContent = text;
  article.append(heading, paragraph);
  view.log.append(article);
  view.log.scrollTop = view.log.scrollHeight;
  return { article, paragraph };
}

function addNote(article, text, className) {
  const note = document.createElement('p');
  note.className = className;
  if (className === 'failure') note.setAttribute('role', 'alert');
  note.textContent = text;
  article.append(note);
  view.log.scrollTop = view.log.scrollHeight;
}

/** The parsed data of each event, up to [DONE]. */
async function* readEvents(stream) {
  let pending = '';
  for await (const chunk of stream.pipeThrough(new TextDecoderStream())) {
    pending += chunk;
    const events = pending.split('\n\n');
    pending = events.pop();
    for (const event of events) {
      if (event === 'data: [DONE]') return;
      if (event.startsWith('data: ')) yield JSON.parse(event.slice('data: '.length));
    }
  }
}

function requestBody(conversation) {
  const temperature = view.temperature.valueAsNumber;
  return {
    model: modelName,
    messages: conversation,
    // Left out, the model's own default counts.
    ...(Number.isNaN(temperature) ? {} : { temperature }),
    stream: true,
    stream_options: { include_usage: true },
  };
}

async function answer() {
  const { article, paragraph } = addArticle('assistant', '');
  article.setAttribute('aria-busy', 'true');
  const start = performance.now();
  let firstMs = null;
  let text = '';
  let usage = null;
  let finish = null;
  // "New chat" may replace it while the answer comes.
  const conversation = messages;
  answering = new AbortController();
  setAnswering(true);
  try {
    const reply = await fetch('/v1/chat/completions', {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...authorization() },
      body: JSON.stringify(requestBody(conversation)),
      signal: answering.signal,
    });
    if (!reply.ok) {
      if (reply.status === 401) askForKey();
      throw new Error((await reply.json()).error.message);
    }
    for await (const event of readEvents(reply.body)) {
      if (event.error) throw new Error(event.error.message);
      usage = event.usage ?? usage;
      const choice = event.choices[0];
      if (!choice) continue;
      finish = choice.finish_reason ?? finish;
      if (!choice.delta.content) continue;
      firstMs ??= performance.now() - start;
      const follows = view.log.scrollHeight - view.log.scrollTop - view.log.clientHeight < 40;
      text += choice.delta.content;
      paragraph.textContent = text;
      if (follows) view.log.scrollTop = view.log.scrollHeight;
    }
    addNote(article, summary(usage, firstMs, performance.now() - start, finish), 'quiet');
  } catch (error) {
    const stopped = error.name === 'AbortError';
    addNote(article, stopped ? 'Stopped.' : error.message, stopped ? 'quiet' : 'failure');
  }
  article.removeAttribute('aria-busy');
  if (text !== '') conversation.push({ role: 'assistant', content: text });
  answering = null;
  setAnswering(false);
}

function summary(usage, firstMs, totalMs, finish) {
  const parts = [];
  if (usage) parts.push(`${usage.completion_tokens} tokens`);
  if (firstMs !== null) parts.push(`first after ${Math.round(firstMs)} ms`);
  if (usage && firstMs !== null && usage.completion_tokens > 1) {
    parts.push(`${(((usage.completion_tokens - 1) * 1000) / (totalMs - firstMs)).toFixed(1)} tokens/s`);
  }
  if (finish === 'length') parts.push('stopped at the length limit');
  return parts.join(' · ');
}

function setAnswering(isAnswering) {
  const hadFocus = document.activeElement === view.send || document.activeElement === view.stop;
  view.send.hidden = isAnswering;
  view.stop.hidden = !isAnswering;
  // The button under the focus has gone; the focus must not go with it.
  if (hadFocus) (isAnswering ? view.stop : view.message).focus();
}

byId('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = view.message.value.trim();
  if (answering || text === '') return;
  view.message.value = '';
  messages.push({ role: 'user', content: text });
  addArticle('user', text);
  void answer();
});

view.message.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId('composer').requestSubmit();
});

view.stop.addEventListener('click', () => answering?.abort());
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') answering?.abort();
});

byId('clear').addEventListener('click', () => {
  answering?.abort();
  messages = [];
  for (const article of view.log.querySelectorAll('article')) article.remove();
  view.empty.hidden = false;
  view.message.focus();
});

view.keyForm.addEventListener('submit', (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY_NAME, view.key.value.trim());
  void loadModel().then(() => {
    if (modelName === null) return;
    view.keyForm.hidden = true;
    view.message.focus();
  });
});

byId('copy').addEventListener('click', async () => {
  try {
    await navigator.clipboard.writeText(view.curl.textContent);
    view.copied.textContent = 'Copied.';
  } catch {
    // No permission, or no secure origin: the reader can still copy what is selected.
    getSelection().selectAllChildren(view.curl);
    view.copied.textContent = 'Selected; press Ctrl+C.';
  }
});

showCurl();
void refreshState();
setInterval(() => {
  if (!document.hidden) void refreshState();
}, POLL_MS);
