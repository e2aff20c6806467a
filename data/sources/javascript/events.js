const handlers = {};

function on(topic, handler) {
  if (!(topic in handlers)) {
    handlers[topic] = [];
  }
  handlers[topic].push(handler);
}

function emit(topic, payload) {
  switch (topic) {
    case "start":
      console.log("starting");
      break;
    default:
      console.log(topic);
  }
  (handlers[topic] || []).forEach((handler) => handler(payload));
}

on("start", (payload) => console.log(payload));
emit("start", 1);
