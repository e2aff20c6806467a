<?php

function slug(string $title): string
{
    $title = strtolower(trim($title));
    return preg_replace('/[^a-z0-9]+/', '-', $title);
}

function shorten($text, $limit = 20)
{
    if (strlen($text) <= $limit) {
        return $text;
    }
    return substr($text, 0, $limit) . '...';
}

echo slug('Hello World'), "\n";
echo shorten('a long line of text', 6);
