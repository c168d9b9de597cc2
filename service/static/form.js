// Makes a form from a JSON schema, and a JSON body from the form. Knows nothing of models or of HTTP.
"use strict";

const form = {
  // Return one labelled control per property of `schema`, filled in from `example`.
  build(schema, example) {
    const names = Object.keys(schema.properties || {});
    if (!names.length) return [form.field("", { description: "A JSON object." }, example, true)];
    const required = new Set(schema.required || []);
    return names.map((name) => form.field(name, schema.properties[name], example[name], required.has(name)));
  },

  // Return one label, control, hint and place for a fault.
  field(name, schema, value, required) {
    const box = form.element("div", { className: "field" });
    const id = "field-" + (name || "body");
    const control = form.control(schema, value);
    Object.assign(control, { id, name, required });
    control.dataset.type = form.type(schema);
    box.append(form.element("label", { htmlFor: id, textContent: (name || "body").replaceAll("_", " ") + (required ? "" : " (optional)") }));
    box.append(control, form.element("p", { className: "hint", textContent: form.hint(schema) }));
    box.append(form.element("p", { className: "fault", hidden: true }));
    return box;
  },

  control(schema, value) {
    const type = form.type(schema);
    if (schema.enum) return form.choice(schema, value);
    if (type === "boolean") return form.element("input", { type: "checkbox", checked: value ?? schema.default ?? false });
    if (type === "number" || type === "integer") {
      const step = type === "integer" ? "1" : "any";
      return form.element("input", { type: "number", step, value: value ?? schema.default ?? "" });
    }
    const text = type === "string" ? value ?? schema.default ?? "" : JSON.stringify(value ?? {}, null, 2);
    return form.element("textarea", { value: text, spellcheck: type === "string" });
  },

  choice(schema, value) {
    const select = form.element("select", {});
    for (const item of schema.enum) select.append(form.element("option", { value: item, textContent: item === "" ? "(none)" : item }));
    select.value = value ?? schema.default ?? schema.enum[0];
    return select;
  },

  type(schema) {
    return Array.isArray(schema.type) ? schema.type.find((type) => type !== "null") : schema.type || "json";
  },

  hint(schema) {
    const limits = schema.maxLength ? `At most ${schema.maxLength.toLocaleString("en")} characters.` : "";
    return [schema.description || "", limits].join(" ").trim();
  },

  // Return the body that the controls say. Throws a SyntaxError for JSON that is none.
  read(container) {
    const body = {};
    for (const control of container.querySelectorAll("[data-type]")) {
      const value = form.value(control);
      if (!control.name) return value;
      if (value !== undefined) body[control.name] = value;
    }
    return body;
  },

  // A number left empty is not sent; anything else is sent as it stands, so that the server's own checks are seen.
  value(control) {
    switch (control.dataset.type) {
      case "boolean": return control.checked;
      case "integer":
      case "number": return control.value === "" ? undefined : Number(control.value);
      case "string": return control.value;
      default: return JSON.parse(control.value);
    }
  },

  // Write what the server found wrong under the control that it is about.
  faults(container, fields) {
    for (const control of container.querySelectorAll("[data-type]")) {
      const messages = Object.entries(fields).filter(([name]) => name.split(".")[0] === control.name).flatMap((entry) => entry[1]);
      const place = control.parentElement.querySelector(".fault");
      place.textContent = messages.join(" ");
      place.hidden = !messages.length;
      control.setAttribute("aria-invalid", String(messages.length > 0));
    }
  },

  // Text only ever enters the page through textContent and value, so nothing that a model says is markup.
  element(tag, properties) {
    return Object.assign(document.createElement(tag), properties);
  },
};
