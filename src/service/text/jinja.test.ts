import { describe, expect, it } from 'vitest';
import { JinjaTemplate, strftime, TemplateLimit, TemplateRefusal } from './jinja.ts';

const limits = { maxSteps: 100_000, maxUnits: 100_000 };
const render = (source: string, variables: Record<string, unknown> = {}, nowMs = 0) =>
  new JinjaTemplate(source).render(variables, nowMs, limits);

describe('JinjaTemplate', () => {
  it.each([
    [
      '{{ "xxabxx".strip("x") }}|{{ "xxabxx".lstrip("x") }}|{{ "xxabxx".rstrip("x") }}|{{ " a ".strip() }}',
      'ab|abxx|xxab|a',
    ],
    [
      '{{ none }}|{{ true }}|{{ missing }}|{{ 1.0 }}|{{ [1, "a", none] }}|{{ {"k": "it\'s"} }}',
      "None|True||1.0|[1, 'a', None]|{'k': \"it's\"}",
    ],
    [
      '{{ "" != false }}|{{ 0 == false }}|{{ 1 == true }}|{{ "1" == 1 }}|{{ none == missing }}|{{ [1, [2]] == [1, [2]] }}',
      'True|True|True|False|False|True',
    ],
    ['{{ "ab" * 2 }}|{{ 2 * "ab" }}|{{ "ab" * -1 }}|{{ -7 % 3 }}|{{ 7 % 4 }}|{{ 2 * 3 }}', 'abab|abab||2|3|6'],
    ['{{ none | trim }}|{{ " a " | trim }}|{{ {"a": 1} | string }}|{{ "a" ~ none ~ 1 }}', "None|a|{'a': 1}|aNone1"],
    ['{{ {"a": "<b>&é"} | tojson }}', '{"a": "<b>&é"}'],
    ['{% for i in range(5) %}{{ i }}{% if i == 2 %}!{% break %}{% endif %},{% endfor %}', '0,1,2!'],
    ['{% for i in range(3) %}{{ i }}{% if i == 1 %}!{% continue %}{% endif %},{% else %}none{% endfor %}', '0,1!2,'],
    [
      '{% for a in range(2) %}{% for b in range(9) %}{{ b }}{% if b == 1 %}{% break %}{% endif %}{% endfor %};{% endfor %}',
      '01;01;',
    ],
    [
      '{% macro m(x) %}{% for i in range(x) %}{% if i == 1 %}{% break %}{% endif %}<{{ m(x - 1) }}>{% endfor %}{% endmacro %}{{ m(3) }}',
      '<<<>>>',
    ],
  ])('renders %s as Python does', (source, expected) => {
    expect(render(source)).toBe(expected);
  });

  it('tells the time that it is given', () => {
    const date = new Date(2026, 0, 5, 13, 7, 9);
    expect(strftime(date, '%Y-%m-%d %H:%M:%S %I%p %A %a %B %b %y %% %q')).toBe(
      '2026-01-05 13:07:09 01PM Monday Mon January Jan 26 % %q',
    );
    expect(render('{{ strftime_now("%d %b %Y") }}', {}, date.getTime())).toBe('05 Jan 2026');
  });

  it('names a refusal by its message', () => {
    expect(() => render('{{ raise_exception("roles must alternate") }}')).toThrow(
      new TemplateRefusal('roles must alternate'),
    );
  });

  it.each([
    '{% for i in range(10**9) %}{% endfor %}',
    '{% for i in range(99999) %}{% for j in range(99999) %}{{ i }}{% endfor %}{% endfor %}',
    '{% set ns = namespace(x="a") %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}',
    '{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}',
    '{{ "a" * 10**9 }}',
    '{% for i in range(1000) %}{{ "a" * 1000 }}{% endfor %}',
  ])('stops %s', (source) => {
    expect(() => render(source)).toThrow(TemplateLimit);
  });

  it.each([
    '{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}',
    '{{ "a" + 1 }}',
    '{{ 1 % 0 }}',
    '{{ f() }}',
    '{% break %}',
  ])('fails on %s', (source) => {
    expect(() => render(source)).toThrow(Error);
  });

  it.each([
    '{% if %}',
    '{{ ',
    '{% for x in %}{% endfor %}',
    '{% endif %}',
    `${'('.repeat(100_000)}`.replace(/^/, '{{ '),
  ])('does not parse a malformed template', (source) => {
    expect(() => new JinjaTemplate(source)).toThrow(Error);
  });
});
